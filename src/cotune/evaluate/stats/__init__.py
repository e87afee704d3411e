"""Statistics: intervals, paired differences, sequential tests, calibration."""
