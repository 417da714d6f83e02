"""What docker-compose.yml needs beside it: the Dockerfile, Dagster's configuration, the maker of secrets."""
