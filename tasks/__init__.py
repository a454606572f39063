"""The stages of a build, one file each, as plain functions."""
