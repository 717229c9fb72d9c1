"""Train with torch's own dropout instead of ours: `python benchmarks/dropout.py train --config phrasebook ...`.

The same command without this file (`projtrans train ...`) is what it is compared with: ours spends a quarter of the
random bits (transformer.py), and is to lose nothing by it.
"""

import torch.nn.functional as F

from projtrans.cli.main import main
from projtrans.model import transformer

transformer._cheap_dropout = F.dropout  # type: ignore[assignment]
main()
