"""One model over several processes: who they are, how the model is split, what those do that do not drive."""

from hf_dynasor.serving.shards.following import follow
from hf_dynasor.serving.shards.group import ShardGroup, check_launched, join_group

__all__ = ["ShardGroup", "check_launched", "follow", "join_group"]
