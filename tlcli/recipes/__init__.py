"""One module per subcommand: where config, data, models, engine and results meet."""
