"""Programs over a server that runs the model: the engine, its dialects, its retries, remote rewards."""

from hf_dynasor.serving.remote.address import API_KEY_VARIABLE, Address, is_url, read_address
from hf_dynasor.serving.remote.dialects import DIALECTS, Dialect
from hf_dynasor.serving.remote.engine import RemoteEngine
from hf_dynasor.serving.remote.exchange import Bounds
from hf_dynasor.serving.remote.making import make_remote_engine
from hf_dynasor.serving.remote.retries import RetryPolicy
from hf_dynasor.serving.remote.rewards import RemoteReward

__all__ = [
    "API_KEY_VARIABLE",
    "DIALECTS",
    "Address",
    "Bounds",
    "Dialect",
    "RemoteEngine",
    "RemoteReward",
    "RetryPolicy",
    "is_url",
    "make_remote_engine",
    "read_address",
]
