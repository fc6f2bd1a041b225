"""The metric of own_metric.yaml."""


def facts(predictions: list[str], references: list[str], rows: list[dict[str, str]]) -> float:
    """Return the share of the prompts' facts (colour, thing, place) that the notes repeat."""
    found = []
    for prediction, row in zip(predictions, rows, strict=True):
        thing, place = row["prompt"].removesuffix(" =>").split(", ")
        found += [fact in prediction for fact in (*thing.split(" ", 1), place)]
    return sum(found) / len(found)
