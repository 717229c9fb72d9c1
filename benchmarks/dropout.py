"""Train with torch's own dropout instead of ours: `python benchmarks/dropout.py train --config phrasebook ...`.

To be compared with the same command without this file (`projtrans train ...`), whose dropout draws a quarter of the
random bits (model/transformer.py) and should train as well.
"""

import torch.nn.functional as F

from projtrans.cli.main import main
from projtrans.model import transformer

transformer._cheap_dropout = F.dropout  # type: ignore[assignment]
main()
