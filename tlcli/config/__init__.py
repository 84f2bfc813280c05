"""What a user can ask for, with defaults and range checks. Field names are the names of options.

The defaults here are the only ones: the command line shows them and never repeats them.
"""

from tlcli.config.detection import BoxDataConfig as BoxDataConfig
from tlcli.config.detection import DetectFinetuneConfig as DetectFinetuneConfig
from tlcli.config.detection import DetectorConfig as DetectorConfig
from tlcli.config.evaluation import EvaluateConfig as EvaluateConfig
from tlcli.config.evaluation import Split as Split
from tlcli.config.features import ExtractConfig as ExtractConfig
from tlcli.config.features import FeatureDtype as FeatureDtype
from tlcli.config.features import FeaturesConfig as FeaturesConfig
from tlcli.config.features import HeadKind as HeadKind
from tlcli.config.features import Pool as Pool
from tlcli.config.features import ProbeConfig as ProbeConfig
from tlcli.config.features import ProbeHeadConfig as ProbeHeadConfig
from tlcli.config.finetuning import FinetuneConfig as FinetuneConfig
from tlcli.config.finetuning import FreezingConfig as FreezingConfig
from tlcli.config.flat import options_of as options_of
from tlcli.config.parts import MAX_SPLIT as MAX_SPLIT
from tlcli.config.parts import AmpDtype as AmpDtype
from tlcli.config.parts import DataConfig as DataConfig
from tlcli.config.parts import LabelledDataConfig as LabelledDataConfig
from tlcli.config.parts import ModelConfig as ModelConfig
from tlcli.config.parts import OnBadBox as OnBadBox
from tlcli.config.parts import OnBadImage as OnBadImage
from tlcli.config.parts import OutputConfig as OutputConfig
from tlcli.config.parts import RuntimeConfig as RuntimeConfig
from tlcli.config.parts import UnfreezeConfig as UnfreezeConfig
from tlcli.config.training import Augment as Augment
from tlcli.config.training import BoxAugment as BoxAugment
from tlcli.config.training import BoxMonitor as BoxMonitor
from tlcli.config.training import BoxTrainConfig as BoxTrainConfig
from tlcli.config.training import ClassWeights as ClassWeights
from tlcli.config.training import Loss as Loss
from tlcli.config.training import LrSchedule as LrSchedule
from tlcli.config.training import Monitor as Monitor
from tlcli.config.training import OptimConfig as OptimConfig
from tlcli.config.training import Optimizer as Optimizer
from tlcli.config.training import Sampler as Sampler
from tlcli.config.training import TrainConfig as TrainConfig
from tlcli.config.training import TrainMonitor as TrainMonitor
from tlcli.config.trunk import CacheDtype as CacheDtype
from tlcli.config.trunk import ImageCache as ImageCache
from tlcli.config.trunk import ImageCacheConfig as ImageCacheConfig
from tlcli.config.trunk import TrunkCache as TrunkCache
from tlcli.config.trunk import TrunkConfig as TrunkConfig
