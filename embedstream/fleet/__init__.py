"""Rented pods, each one consumer of the group: started, watched, replaced, and ended.

    fleet = Fleet(RunPod(key), spec, Ledger(path))
    fleet.raise_pods()        # idempotent by pod name
    fleet.down()              # nothing is left running

Nothing here takes part in the work itself: Kafka's group does that. Should every command of this package die,
the pods go on, and each ends itself when its job is drained, at its deadline, or when its share of the budget
is used up (`embedstream.fleet.pod`).
"""
