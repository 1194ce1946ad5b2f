"""The rows of a campaign that are left by rules about their text, and without duplicates."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.campaign.campaign import CHUNK_ROWS, Campaign
from nightpress.pipelines.campaign.permutation import Ints
from nightpress.pipelines.campaign.places import Places
from nightpress.pipelines.campaign.quotas import scaled  # noqa: F401
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.hashing import GOLDEN, Hashes, hash64, mix64
from nightpress.pipelines.job.spec import is_setting
