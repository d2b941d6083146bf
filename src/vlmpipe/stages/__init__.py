"""The road, in order. A stage's number is its place here."""

from vlmpipe.stages.s0_check import CHECK
from vlmpipe.stages.s1_setup import SETUP
from vlmpipe.stages.s2_train import TRAIN
from vlmpipe.stages.s3_validate import VALIDATE
from vlmpipe.stages.s4_merge import MERGE
from vlmpipe.stages.s5_convert import CONVERT
from vlmpipe.stages.s6_deploy import DEPLOY

STAGES = (CHECK, SETUP, TRAIN, VALIDATE, MERGE, CONVERT, DEPLOY)
