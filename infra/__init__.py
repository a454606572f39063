"""Entry points and servers: the command line, deployments."""
