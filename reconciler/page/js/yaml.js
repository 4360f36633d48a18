/** A record as a manifest. */

const PLAIN = /^[A-Za-z/][A-Za-z0-9._/@-]*$/;
const WORDS = /^(true|false|null|yes|no|on|off|y|n)$/i;

/** The manifest that declares `spec` under `name`. */
export function manifest(name, spec) {
  return `apiVersion: reconciler/v1\nkind: ModelInstance\nmetadata:\n  name: ${scalar(name)}\nspec:\n${lines(spec, '  ')}`;
}

function lines(value, indent) {
  return Object.entries(value)
    .filter(([, one]) => !isEmpty(one))
    .map(([key, one]) => {
      const shown = scalar(key);
      if (isMap(one)) return `${indent}${shown}:\n${lines(one, `${indent}  `)}`;
      return `${indent}${shown}: ${scalar(one)}\n`;
    })
    .join('');
}

const isMap = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
const isEmpty = (value) => isMap(value) && !Object.keys(value).length;

/** JSON is valid YAML; plain words need no quotes. */
function scalar(value) {
  if (typeof value === 'string' && PLAIN.test(value) && !WORDS.test(value)) return value;
  return JSON.stringify(value);
}
