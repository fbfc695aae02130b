"""The HTTP server: OpenAI's API and reasoning programs over any engine. Needs the extra `[serve]`."""
