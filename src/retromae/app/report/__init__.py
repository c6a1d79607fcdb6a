"""The report of an adapt run: `report.html`, one file that needs nothing else, and its pictures in `plots/`.

reading → data → curves → charts → plots ─┐
             └→ tables, examples ─────────┴→ page
"""
