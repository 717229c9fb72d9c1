"""Tools that write files of this repository from its code; `projtrans` never imports them."""
