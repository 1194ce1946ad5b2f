"""Pages and images about a run: report, contact sheet, sampling steps, tuning."""
