"""Where the study is stored: a file or a PostgreSQL server, with patience."""
