"""From rows to figures and verdicts: studies, their runner, plotting, the ledger, comparisons."""
