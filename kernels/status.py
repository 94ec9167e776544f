"""Status of an account at one time; the order is the order of severity used in reports."""

OK, INELIGIBLE, NO_REQUIREMENT, WARNING, LIQUIDATION, BANKRUPT, UNPRICED, QUARANTINED = range(8)

STATUS_NAMES = (
    "ok",
    "ineligible",
    "no_requirement",
    "warning",
    "liquidation",
    "bankrupt",
    "unpriced",
    "quarantined",
)
NUM_STATUS = len(STATUS_NAMES)
