"""The bytes on a connection: frames, and the stream that carries them."""
