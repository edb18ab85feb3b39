"""The frozen base of every section, optimizers, runtime settings, strict YAML and overrides."""
