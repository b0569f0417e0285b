"""The studies: one file is one question, one figure, and the statements that it settles."""
