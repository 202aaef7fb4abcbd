"""The cluster as the operator sees it: objects, and the observation that one decision rests on."""
