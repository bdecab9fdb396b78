"""The live grain-growth simulator: two files of JavaScript, and the widget of JupyterLab that runs them."""
