"""JetStream: the app's log, and a foreign log to read from and deliver to."""
