"""DSPy: a typed signature, as JSON with a schema and in DSPy's own form, and a tool."""

import json
import os

import dspy


class Describe(dspy.Signature):
    """Describe the city."""

    question: str = dspy.InputField()
    name: str = dspy.OutputField()
    people: int = dspy.OutputField()


lm = dspy.LM(
    "openai/" + os.environ["MODEL"],
    api_base=os.environ["URL"] + "/v1",
    api_key="none",
    cache=False,
    num_retries=0,
)
found = {}
for adapter in (dspy.JSONAdapter(), dspy.ChatAdapter()):
    with dspy.context(lm=lm, adapter=adapter):
        answer = dspy.Predict(Describe)(question="Which city?")
    found[type(adapter).__name__] = {"name": answer.name, "people": answer.people}
print(json.dumps(found))
