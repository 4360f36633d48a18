/** Names of the vendored libraries that the page uses. */
import { h, Fragment, render } from '../vendor/preact.mjs';
import htm from '../vendor/htm.mjs';

export { Fragment, render };
export {
  useCallback,
  useEffect,
  useErrorBoundary,
  useId,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from '../vendor/hooks.mjs';

export const html = htm.bind(h);
