"""What runs embedstream elsewhere: container images, compose, units, dashboards (data files only)."""
