"""The workflow both sciences share, without Qt: finders, unfinished tables, runs, sources, caveats, settings, projects."""
