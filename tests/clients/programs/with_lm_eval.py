"""lm-eval-harness: log-likelihoods and generated texts, with each form of request."""

import json
import os
import sys

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

tokenizer, pairs = sys.argv[1], json.loads(sys.argv[2])
FORMS = {"single": {}, "batched": {"batch_size": 4}, "texts": {"tokenized_requests": False}}


def ask(more):
    model = LocalCompletionsAPI(
        model=os.environ["MODEL"],
        base_url=os.environ["URL"] + "/v1/completions",
        tokenizer=tokenizer,
        tokenizer_backend="huggingface",
        **more,
    )
    scored = [Instance("loglikelihood", {}, (context, more), 0) for context, more in pairs]
    wanted = {"until": ["\n\n"], "max_gen_toks": 8}
    written = [Instance("generate_until", {}, (context, wanted), 0) for context, _ in pairs]
    return {
        "scores": model.loglikelihood(scored, disable_tqdm=True),
        "texts": model.generate_until(written, disable_tqdm=True),
    }


print(json.dumps({name: ask(more) for name, more in FORMS.items()}))
