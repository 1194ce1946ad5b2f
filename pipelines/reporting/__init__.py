"""Pages and pictures about a run: report, contact sheet, strips."""
