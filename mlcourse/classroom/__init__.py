"""The class room: hand the course out, and mark what comes back.

`handout` makes the students' edition. For the marks, `course` says what the notebooks ask, `collecting` finds each
student's files, `notebooks` reads the cells of damaged files, `answers` finds the answers in them, `sandbox` runs an
answer in a process of its own (`child` is that process), and `marks` judges what comes back and writes it down. On
request `executed` runs whole notebooks in the same way (`runner` is their process). `guide` makes the tables of the
teacher's guide, `syllabus`, `glossary` and `sizing` the pages that they are named for.
"""
