"""Parts of the tools that train and evaluate the embedded models; not shipped with the package."""
