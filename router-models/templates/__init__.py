"""Request templates and short texts written for this project (Apache-2.0), one module for each family of categories."""
