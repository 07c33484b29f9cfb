"""
Strain of the sample
====================

stub
"""

print(1)
