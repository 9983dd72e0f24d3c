"""Data sets as everything reads them: batches, inputs, targets."""
