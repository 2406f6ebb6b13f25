"""The console: a page that the service hands out, which asks the service like anybody else.

``static/`` holds plain ES modules: ``main.js`` (who is signed in, which view), ``lib/`` (what views share) and
``views/`` (one a file). ``vendor/`` holds other people's, each with its licence. Nothing is fetched from elsewhere,
nothing is built, and text from the lake becomes text of the page, never markup. No Python but what hands it out.
"""
