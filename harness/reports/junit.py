"""Render `junit.xml`: one test case per verdict, with its outcome and numbers as properties.

It is written from the record, not from pytest, so that a run judged again can be rendered again.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from harness.formatting import NOT_XML
from harness.records.run import Run


def junit(run: Run) -> str:
    """Return the run in the JUnit format that CI servers read."""
    failed = sum(verdict.outcome.fails for verdict in run.verdicts)
    skipped = sum(verdict.outcome.skips for verdict in run.verdicts)
    suite = ET.Element(
        "testsuite", name="harness", timestamp=run.started, tests=str(len(run.verdicts)), failures=str(failed),
        skipped=str(skipped), errors="0",
    )  # fmt: skip
    for verdict in run.verdicts:
        case = ET.SubElement(suite, "testcase", classname=str(verdict.property), name=verdict.case)
        properties = ET.SubElement(case, "properties")
        ET.SubElement(properties, "property", name="outcome", value=str(verdict.outcome))
        for name, value in verdict.numbers.items():
            ET.SubElement(properties, "property", name=name, value=repr(value))
        if verdict.outcome.fails:
            ET.SubElement(case, "failure", type=str(verdict.outcome), message=verdict.message)
        elif verdict.outcome.skips:
            ET.SubElement(case, "skipped", type=str(verdict.outcome), message=verdict.message)
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    text = ET.tostring(suites, encoding="unicode", xml_declaration=True)
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text) + "\n"
