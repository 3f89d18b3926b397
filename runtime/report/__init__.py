"""What a run has left behind, for people and programs: report.json, report.html and contact-sheet.png."""
