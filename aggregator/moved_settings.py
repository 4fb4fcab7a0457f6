"""Keys of settings files from before the rules had tables of their own, and where they stand now."""

from collections.abc import Mapping

MOVED: Mapping[tuple[str, str], str] = {
    ("pruning", "residual"): "[residual] kind",
    ("pruning", "topology"): "[topology] kind",
    ("pruning", "prune_share"): "[topology] prune_share",
    ("pruning", "every_rounds"): "[topology] every_rounds",
    ("pruning", "end_round"): "[topology] end_round",
    ("pruning", "grow_value"): "[topology] grow_value",
    ("pruning", "between"): "[topology] between",
    ("contribution", "weighting"): "[weighting] kind",
    ("contribution", "gamma0"): "[weighting] gamma0",
    ("contribution", "weight_min"): "[weighting] weight_min",
    ("contribution", "score_scale"): "[weighting] score_scale",
    ("contribution", "exclude_self"): "[scoring] exclude_self",
    ("contribution", "coverage"): "[combining] coverage",
    ("contribution", "step"): "[combining] kind (raw is now mean)",
    ("rates", "policy"): "[rates] kind",
}


def moved(tables: Mapping[str, object]) -> str:
    """One sentence that says of every key which has moved where it stands now; "" where none has."""
    found = []
    for (table, key), place in MOVED.items():
        inside = tables.get(table)
        if isinstance(inside, dict) and key in inside:
            found.append(f"[{table}] {key} is now {place}")
    if not found and "contribution" in tables:
        found = ["[contribution] is now [weighting], [scoring] and [combining]"]
    return f"rules have tables of their own now: {'; '.join(found)}." if found else ""
