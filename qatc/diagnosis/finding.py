"""What a diagnosis says of one layer or tensor."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that will cost accuracy: what it is, of which layer, where it was written, how much, and the remedy."""

    kind: str
    layer: str
    location: str
    figure: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.layer} ({self.location})" if self.location else self.layer
        return f"{self.kind} at {where}: {self.figure}\n  try: {self.remedy}"
