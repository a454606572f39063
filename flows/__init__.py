"""How a build runs: the pipeline, its settings and its Prefect form."""
