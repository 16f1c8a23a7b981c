def dev() -> None:
    raise NotImplementedError
