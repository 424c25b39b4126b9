"""Which commit made tests fail: git bisect over builds of a kernel tree and runs of the tests."""
