"""The store of runs: the workspace, run directories, checkpoints, object stores."""
