"""The shape of `results.json` and `comparison.json`, part by part.

They are TypedDicts: what is in memory is what is in the file, so that a record that is read and written again is the
same to the last digit; a type checker knows the keys; and pydantic checks a file against them without building an
object for each of its thousands of parts. What depends on the registry of measures is put together in `schema`.
"""
