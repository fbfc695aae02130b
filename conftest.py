"""Which modules are looked at for examples: those of Ray only where Ray is (`make test-replicas` brings it)."""

from importlib.util import find_spec

collect_ignore = []
if find_spec("ray") is None:
    collect_ignore += [
        "hf_dynasor/serving/replicas/application.py",
        "hf_dynasor/serving/replicas/ray_router.py",
    ]
