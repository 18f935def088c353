"""A page of HTML about runs or a scaling study: what they hold (folders), tables and charts of it
(blocks, chart), the sections of a page, and the page itself (page).
"""
