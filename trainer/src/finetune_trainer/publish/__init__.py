"""Publishing a result, and adopting one that is published already."""
