"""TFLite (LiteRT) files, written from an inference graph without a converter."""
