"""What the files of the models of the digits hold. It stands in source, so that rows know which weights they are of."""

SHA256: dict[str, str] = {}
