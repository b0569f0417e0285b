"""What formats do to a checkpoint, tensor by tensor: outliers, errors, advice under a budget of bits."""
