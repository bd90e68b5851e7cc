"""What a handler may be beside a plain function: awaited, streamed, given a typed request, begun and ended."""
